"""The parts of `bouchet chat`: conversation, typed input, streamed answers."""
