"""``pyro-ext tumour``: what networks of tumours say about a mutation matrix."""
