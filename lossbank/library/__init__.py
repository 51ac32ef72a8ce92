"""Library of losses: the contract, registration, mixtures."""
