"""Questions to a policy's language: is there an accepted sequence of requests with a property?"""
