"""One file a stage. Stages know the models and the edges, never each other; the pipeline knows the order."""
