"""Several nodes on one machine: network namespaces with an address each."""
