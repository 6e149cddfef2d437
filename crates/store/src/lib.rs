//! Journal, read model and blobs.
