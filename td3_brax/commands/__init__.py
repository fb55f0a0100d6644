"""The subcommands of ``td3-brax``: one module or package for each."""
