"""mteb both ways: our models in its results, its models and tasks in ours."""
