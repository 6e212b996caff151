//! From the bytes of config.json to a checked `Spec`.
