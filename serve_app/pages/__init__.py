"""The pages for people: their files, and the live numbers of all Routers."""
