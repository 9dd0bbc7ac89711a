//! What tenants used, as a page to look at. Counting and reviewing are SQL, in sql/usage/.

mod ascii;
mod chart;
mod functions;
mod report;
