"""One file a stage. Stages import the models and the edges, never each other; the pipeline knows their order."""
