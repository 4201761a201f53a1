"""The bytes and names of the files that the spool stores."""
