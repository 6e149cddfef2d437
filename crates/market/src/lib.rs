//! The market service: HTTP API, committer, judge, metrics, web app.
