"""Mixtures of experts in a forward pass: routers, grouped products, and what differs from them."""
