"""What Prefect runs. Only this package imports prefect."""
