"""`python -m sekisho.policy.schema` prints the JSON Schema of policies, which `docs/policy.schema.json` holds."""

import sys

from sekisho.policy.file import schema

if __name__ == "__main__":
    sys.stdout.buffer.write(schema())
