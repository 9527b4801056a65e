"""Ship a finished run: a bundle of files for apps on Android and iOS, checked against the trained model."""
