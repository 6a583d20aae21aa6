"""Where a plan can be run: one module an engine, which renders a job, submits and follows it."""
