"""manage.py of the Django project that the tests of interoperation run."""

import os
import sys

from django.core.management import execute_from_command_line

# Consumer processes import this file.
if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")
    execute_from_command_line(sys.argv)
