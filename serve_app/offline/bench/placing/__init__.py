"""Which replica a call goes to, measured on real engines with small prefix caches."""
