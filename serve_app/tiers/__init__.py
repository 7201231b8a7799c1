"""The models: planned from config, placed by Ray, leased by Routers, spoken to over plain HTTP."""
