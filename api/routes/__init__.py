"""The routes, a module per kind of resource."""
