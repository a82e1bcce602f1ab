"""GPU images on the demo cluster: staged, built and verified as a person does it (`make image-proof`)."""
