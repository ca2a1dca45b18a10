"""What a node runs its jobs with; one module or package per engine, none of which knows another."""
