"""Playing in the world model and in the real game: a session that knows no network, and two faces of it."""
