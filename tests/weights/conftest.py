from support.weights_fixtures import no_outside, policy, server

__all__ = ["no_outside", "policy", "server"]
