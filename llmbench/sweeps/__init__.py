"""What goes on around many jobs: the plan, the state of a sweep's folder, each job's task, what the terminal shows."""
