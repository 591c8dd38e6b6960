"""Loads the applications: imported before whatever has models, where processes are forked from."""

import django

django.setup()
