"""``td3-brax report``: figures, tables and an HTML page about runs."""
