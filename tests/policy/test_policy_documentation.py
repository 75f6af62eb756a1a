"""The example in the documentation is a policy, written as the program writes it."""

from pathlib import Path

from sekisho.policy.file import decode, encode

DOCUMENT = Path(__file__).parents[2] / "docs" / "policy-format.md"


def test_the_example_is_a_policy_and_laid_out_as_written() -> None:
    example = DOCUMENT.read_text().split("```json\n")[1].split("```")[0].encode()
    assert encode(decode(example)) == example
