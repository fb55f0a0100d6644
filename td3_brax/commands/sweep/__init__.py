"""``td3-brax sweep FILE``: train the members of a sweep together in one program."""
