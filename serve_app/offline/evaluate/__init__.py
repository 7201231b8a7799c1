"""How often each model is right on a labelled data set, asked over HTTP: `serve-app evaluate`."""
