"""The bytes and names of what the spool stores."""
