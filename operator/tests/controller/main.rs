//! Promises of the controller that need no cluster: what it decides, what it builds, what its status means to others.

mod build;
mod checkpoints;
mod client;
mod decide;
mod fake_api;
mod fixtures;
mod kstatus;
mod scenarios;
