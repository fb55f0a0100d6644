"""``td3-brax sweep FILE``: a sweep's members together, in one program."""
