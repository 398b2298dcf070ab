//! Made-up histories.
