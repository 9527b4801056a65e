"""What phones can do: the profile schema, a catalogue of phones, and predictors that read profiles."""
