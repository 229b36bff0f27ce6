"""Problems and tasks: the catalogue of registered ones, and how each is made."""
