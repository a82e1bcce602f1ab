"""`bouchet site probe`: a site file written from what a cluster's login node prints."""
