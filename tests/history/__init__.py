"""The history checker: real instances, a real Redis, seeded trouble, every call recorded, and a judgement of what is read at the end."""
