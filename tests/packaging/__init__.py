"""The wheel and the sdist, as a user installs them."""
