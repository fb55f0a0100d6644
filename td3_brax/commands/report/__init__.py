"""Pictures, tables and a page of runs: ``td3-brax report``."""
