"""What `manage.py` is elsewhere: `python -m services.django_site migrate`, `runserver`, `worker`."""

import os
import sys

from django.core.management import execute_from_command_line

if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "services.django_site.settings")
    execute_from_command_line(sys.argv)
