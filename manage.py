#!/usr/bin/env python3
"""The one command: `python3 manage.py demo` and `python3 manage.py test` need nothing but Python 3.11."""

import os
import sys

from commerce import bootstrap


def main() -> None:
    bootstrap.ensure_environment()
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "commerce.settings")
    from django.core.management import execute_from_command_line

    from commerce.embedded import EmbeddedServerError

    try:
        execute_from_command_line(sys.argv)
    except EmbeddedServerError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
