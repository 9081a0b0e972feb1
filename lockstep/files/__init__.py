"""Files and folders of users: read within bounds, written whole or not at all."""
