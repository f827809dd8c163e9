"""Long runs against real servers, one for each promise that only time and load can break: docs/endurance.md."""
