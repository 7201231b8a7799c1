"""Each model's accuracy on a labelled data set, over HTTP: `serve-app evaluate`."""
