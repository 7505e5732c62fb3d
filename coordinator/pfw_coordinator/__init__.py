"""The coordinator daemon: owns the runs, places steps on workers, tells clients what happened."""
