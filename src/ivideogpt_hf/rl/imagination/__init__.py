"""The world model beside an agent: opened, trained online, asked to imagine."""
