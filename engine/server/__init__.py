"""The WebSocket server: its protocol (pure), who may connect, and the sockets."""
