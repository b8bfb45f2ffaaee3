//! The system file: TOML schema, validation, compiled form.
