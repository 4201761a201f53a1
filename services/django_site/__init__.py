"""A Django project whose tasks run on the framework: `python -m services.django_site worker`."""
