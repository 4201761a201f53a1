"""One module per engine; `framework.broker` maps a URL's scheme to it."""
